#pragma once
class G4LogicalVolume;
class G4VPhysicalVolume {
public:
    explicit G4VPhysicalVolume(G4LogicalVolume* logical) : logical_(logical) {}
    virtual ~G4VPhysicalVolume() = default;
    G4LogicalVolume* GetLogicalVolume() const { return logical_; }

private:
    G4LogicalVolume* logical_;
};
